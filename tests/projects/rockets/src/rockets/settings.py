#!/usr/bin/env python
# Settings of the project "Rockets".
# -------------------------------------------------------------------------------------------------
# NB: HOOKS are executed last in, first out.
# HOOKS = (TimingHooks(), RecordingHooks())   <- how it once was
"""Project settings."""  # read by Kedro

# Ours.
from rockets.hooks import (
    RecordingHooks,  # writes down which nodes ran
    # ProfilingHooks,
)

# The hooks (see above).
HOOKS = (
    RecordingHooks(),  # the first, (and the last)
    # ProfilingHooks(),
)  # to be continued

# DISABLE_HOOKS_FOR_PLUGINS = ("kedro-viz",)

CONFIG_LOADER_ARGS = {
    "base_env": "base",  # "base", not "common"
    "default_run_env": "local",
}
# end of settings
