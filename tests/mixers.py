"""Which mixers a test is about."""

from resnet_bk.layers.registry import MIXERS

CHAINS = "absorption_min"  # a field that every mixer with chains reads


def reading(*fields: str) -> list[str]:
    """Names of the mixers that read all of these fields of a `ResNetBKConfig`."""
    return [name for name, mixer in MIXERS.items() if {*fields} <= {*mixer.fields()}]
