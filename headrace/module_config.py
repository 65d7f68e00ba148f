"""A module's own configuration, where it brings one in Hugging Face's form.

Decides what is worth keeping with a version so that its weights can be taken elsewhere: the JSON
that `save_pretrained` would write into config.json. Knows the form, not the library.
"""

from __future__ import annotations

import json
from typing import Any

from torch import nn

from chassis.telemetry import logger

log = logger(__name__)

# Class names of a large label set take a megabyte.
MAX_BYTES = 4 * 1024 * 1024


def config_of(module: nn.Module) -> bytes | None:
    """The JSON object of `module.config`, with the module's class as architecture; None without
    one.

    A configuration that cannot be kept is left out and logged: the weights do not depend on it.
    """
    write = getattr(getattr(module, "config", None), "to_json_string", None)
    if not callable(write):
        return None
    try:
        found: Any = json.loads(write())
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        content = json.dumps(
            found | {"architectures": [type(module).__name__]}, sort_keys=True
        ).encode()
    except Exception as error:
        log.warning("the module's configuration is not kept", why=str(error))
        return None
    if len(content) > MAX_BYTES:
        log.warning("the module's configuration is not kept", bytes=len(content))
        return None
    return content
