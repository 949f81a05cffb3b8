"""Putting it together: the one room that names concrete classes. Owns: what others may ask of it."""

from solo_trio.bootstrap.audit import read_audit as read_audit
from solo_trio.bootstrap.directory import DATABASE_FILE as DATABASE_FILE
from solo_trio.bootstrap.directory import LOCKS_DIRECTORY as LOCKS_DIRECTORY
from solo_trio.bootstrap.directory import check_unused as check_unused
from solo_trio.bootstrap.directory import environments_of as environments_of
from solo_trio.bootstrap.directory import tenant_files as tenant_files
from solo_trio.bootstrap.looking import look_back as look_back
from solo_trio.bootstrap.machine import control_groups as control_groups
from solo_trio.bootstrap.machine import harden_process as harden_process
from solo_trio.bootstrap.machine import storage_library as storage_library
from solo_trio.bootstrap.master_key import rotate_master_key as rotate_master_key
from solo_trio.bootstrap.offline import rotate_token as rotate_token
from solo_trio.bootstrap.repairing import Outcome as Outcome
from solo_trio.bootstrap.repairing import repair_data as repair_data
from solo_trio.bootstrap.restoring import restore_backup as restore_backup
from solo_trio.bootstrap.running import assemble as assemble
from solo_trio.bootstrap.running import running_system as running_system
from solo_trio.bootstrap.verifying import verify_data as verify_data
from solo_trio.kernel.repairing import RepairPlan as RepairPlan
from solo_trio.runtimes.environments import ENVIRONMENTS_MAX as ENVIRONMENTS_MAX
from solo_trio.runtimes.environments import Environments as Environments
from solo_trio.runtimes.environments import read_environment as read_environment
from solo_trio.runtimes.sandbox.layers import LEVEL_FILTERED as LEVEL_FILTERED
from solo_trio.runtimes.sandbox.layers import LEVEL_FULL as LEVEL_FULL
from solo_trio.runtimes.sandbox.root import unreachable as unreachable
from solo_trio.vault.admin_token import ADMIN_TOKEN_FILE as ADMIN_TOKEN_FILE
