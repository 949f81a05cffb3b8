"""Requests of the API as data. Owns: which operation is which request, and what is read off its answer. Never: sends one.

Both clients offer every function here as a method of the same name, so a new operation is one function in one of the modules,
and its name here.
"""

from solo_trio.client.asks.of_capabilities import attenuate as attenuate
from solo_trio.client.asks.of_capabilities import capabilities as capabilities
from solo_trio.client.asks.of_capabilities import grant as grant
from solo_trio.client.asks.of_capabilities import revoke as revoke
from solo_trio.client.asks.of_capabilities import revoke_token as revoke_token
from solo_trio.client.asks.of_capabilities import rotate_token as rotate_token
from solo_trio.client.asks.of_capabilities import show_capability as show_capability
from solo_trio.client.asks.of_capabilities import verify_token as verify_token
from solo_trio.client.asks.of_kernel import accept_clock as accept_clock
from solo_trio.client.asks.of_kernel import backup as backup
from solo_trio.client.asks.of_kernel import checkpoint as checkpoint
from solo_trio.client.asks.of_kernel import compact as compact
from solo_trio.client.asks.of_kernel import health as health
from solo_trio.client.asks.of_kernel import openapi as openapi
from solo_trio.client.asks.of_kernel import pause_all as pause_all
from solo_trio.client.asks.of_kernel import ready as ready
from solo_trio.client.asks.of_kernel import resume_all as resume_all
from solo_trio.client.asks.of_kernel import state as state
from solo_trio.client.asks.of_kernel import system as system
from solo_trio.client.asks.of_kernel import verify as verify
from solo_trio.client.asks.of_records import audit as audit
from solo_trio.client.asks.of_records import events as events
from solo_trio.client.asks.of_records import logs as logs
from solo_trio.client.asks.of_secrets import delete_secret as delete_secret
from solo_trio.client.asks.of_secrets import reveal_secret as reveal_secret
from solo_trio.client.asks.of_secrets import secrets as secrets
from solo_trio.client.asks.of_secrets import set_secret as set_secret
from solo_trio.client.asks.of_secrets import show_secret as show_secret
from solo_trio.client.asks.of_services import call as call
from solo_trio.client.asks.of_services import deploy as deploy
from solo_trio.client.asks.of_services import explain as explain
from solo_trio.client.asks.of_services import kill as kill
from solo_trio.client.asks.of_services import pause as pause
from solo_trio.client.asks.of_services import restart as restart
from solo_trio.client.asks.of_services import resume as resume
from solo_trio.client.asks.of_services import services as services
from solo_trio.client.asks.of_services import status as status
from solo_trio.client.asks.of_services import update as update
from solo_trio.client.asks.of_services import versions as versions
from solo_trio.client.asks.of_tenants import create_tenant as create_tenant
from solo_trio.client.asks.of_tenants import remove_tenant as remove_tenant
from solo_trio.client.asks.of_tenants import show_tenant as show_tenant
from solo_trio.client.asks.of_tenants import tenants as tenants
from solo_trio.client.asks.of_tenants import update_tenant as update_tenant
from solo_trio.client.asks.request import Ask as Ask
from solo_trio.client.asks.request import Document as Document
