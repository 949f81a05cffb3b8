"""All rules, in the order of the documentation. Owns: the list. Never: a rule (each has a file of its own)."""

from __future__ import annotations

from typing import Final

from solo_trio.hardening.finding import Rule
from solo_trio.hardening.rules.blocking_call import BLOCKING_CALL
from solo_trio.hardening.rules.dynamic_code import DYNAMIC_CODE
from solo_trio.hardening.rules.endless_loop import ENDLESS_LOOP
from solo_trio.hardening.rules.foreign_loop import FOREIGN_LOOP
from solo_trio.hardening.rules.introspection import INTROSPECTION
from solo_trio.hardening.rules.missing_await import MISSING_AWAIT
from solo_trio.hardening.rules.native_loading import NATIVE_LOADING
from solo_trio.hardening.rules.process_use import PROCESS_USE
from solo_trio.hardening.rules.readable import SYNTAX, TOO_LARGE
from solo_trio.hardening.rules.secret_literal import SECRET_LITERAL
from solo_trio.hardening.rules.swallowed_cancel import SWALLOWED_CANCEL
from solo_trio.hardening.rules.unseen_task import UNSEEN_TASK

RULES: Final[tuple[Rule, ...]] = (
    SYNTAX,
    TOO_LARGE,
    PROCESS_USE,
    DYNAMIC_CODE,
    NATIVE_LOADING,
    INTROSPECTION,
    BLOCKING_CALL,
    ENDLESS_LOOP,
    SWALLOWED_CANCEL,
    UNSEEN_TASK,
    MISSING_AWAIT,
    FOREIGN_LOOP,
    SECRET_LITERAL,
)
