"""ResNet-BK as a Hugging Face model; importing this package registers it with the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from resnet_bk.models.cache import ResNetBKCache
from resnet_bk.models.configuration_pointer import PointerConfig
from resnet_bk.models.configuration_resnet_bk import ResNetBKConfig
from resnet_bk.models.configuration_resnet_bk_seed import ResNetBKSeedConfig
from resnet_bk.models.modeling_pointer import PointerCache, PointerForCausalLM, PointerOutput
from resnet_bk.models.modeling_resnet_bk import ResNetBKForCausalLM, ResNetBKModel, ResNetBKPreTrainedModel
from resnet_bk.models.modeling_resnet_bk_seed import (
    ResNetBKSeedForCausalLM,
    ResNetBKSeedModel,
    ResNetBKSeedPreTrainedModel,
)
from resnet_bk.models.outputs import ResNetBKCausalLMOutput, ResNetBKModelOutput

AutoConfig.register(ResNetBKConfig.model_type, ResNetBKConfig, exist_ok=True)
AutoModel.register(ResNetBKConfig, ResNetBKModel, exist_ok=True)
AutoModelForCausalLM.register(ResNetBKConfig, ResNetBKForCausalLM, exist_ok=True)
AutoConfig.register(ResNetBKSeedConfig.model_type, ResNetBKSeedConfig, exist_ok=True)
AutoModel.register(ResNetBKSeedConfig, ResNetBKSeedModel, exist_ok=True)
AutoModelForCausalLM.register(ResNetBKSeedConfig, ResNetBKSeedForCausalLM, exist_ok=True)
AutoConfig.register(PointerConfig.model_type, PointerConfig, exist_ok=True)
AutoModelForCausalLM.register(PointerConfig, PointerForCausalLM, exist_ok=True)

# By these names `Trainer` knows whose labels are to be shifted when it smooths them, and a pipeline what it can run
# (but for the last, which generates nothing).
for _config, _model in (
    (ResNetBKConfig, ResNetBKForCausalLM),
    (ResNetBKSeedConfig, ResNetBKSeedForCausalLM),
    (PointerConfig, PointerForCausalLM),
):
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[_config.model_type] = _model.__name__

__all__ = [
    "PointerCache",
    "PointerConfig",
    "PointerForCausalLM",
    "PointerOutput",
    "ResNetBKCache",
    "ResNetBKCausalLMOutput",
    "ResNetBKConfig",
    "ResNetBKForCausalLM",
    "ResNetBKModel",
    "ResNetBKModelOutput",
    "ResNetBKPreTrainedModel",
    "ResNetBKSeedConfig",
    "ResNetBKSeedForCausalLM",
    "ResNetBKSeedModel",
    "ResNetBKSeedPreTrainedModel",
]
