# Source this (bash or zsh) to enter the environment: .venv, ROS 2 and the built interfaces.
# It brings the environment up to date first; PYTHON picks the interpreter it is made from.
if [ -n "${BASH_VERSION:-}" ]; then _qwen3vl_scripts=${BASH_SOURCE[0]}; else _qwen3vl_scripts=$0; fi
_qwen3vl_scripts=$(cd "$(dirname "$_qwen3vl_scripts")" && pwd)
if "${PYTHON:-python3}" "$_qwen3vl_scripts/setup_env.py"; then
    . "$_qwen3vl_scripts/../.ws/env.sh"
else
    unset _qwen3vl_scripts
    return 1 2>/dev/null || exit 1
fi
unset _qwen3vl_scripts
