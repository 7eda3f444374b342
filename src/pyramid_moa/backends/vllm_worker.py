"""vLLM's worker with what a pyramid needs of it beside.

It tells the connector the model's final norm: vLLM gives a connector no way to the model, and hands
out the last layer before that norm. On a CPU it sees that sampling is right. And it does not
outlive the process that started the engine. Named by ``--worker-cls``.
"""

from typing import TYPE_CHECKING, Any

from vllm.platforms import current_platform

from pyramid_moa.backends.owner_watch import end_with_owner
from pyramid_moa.backends.vllm_connector import HiddenStatesConnector
from pyramid_moa.backends.vllm_final_norm import find_final_norm
from pyramid_moa.backends.vllm_sampling_fix import mend_cpu_kernel, mend_cpu_seeds

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
elif current_platform.is_xpu():
    from vllm.v1.worker.xpu_worker import XPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker

if TYPE_CHECKING:
    from vllm.v1.kv_cache_interface import KVCacheConfig

__all__ = ["PyramidWorker"]


class PyramidWorker(PlatformWorker):  # type: ignore[misc] # an untyped library
    """The worker of the platform that vLLM runs on."""

    def init_device(self) -> None:
        """Take the device, from now on for no longer than the engine's owner lives."""
        end_with_owner()
        super().init_device()

    def load_model(self, **options: Any) -> None:  # noqa: ANN401 - as vLLM has them
        """Load the model; on a CPU, see that sampling is right."""
        super().load_model(**options)
        if current_platform.is_cpu():
            mend_cpu_kernel()
            mend_cpu_seeds(self.model_runner)

    def initialize_from_config(self, kv_cache_config: "KVCacheConfig") -> None:
        """Set the cache and the connector up, and tell the connector the final norm.

        Raises:
            BackendError: the last layer is asked for and the model has no norm that is known.
        """
        from vllm.config import set_current_vllm_config
        from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group

        super().initialize_from_config(kv_cache_config)
        connector = get_kv_transfer_group() if has_kv_transfer_group() else None
        if not isinstance(connector, HiddenStatesConnector) or not connector.last_layers:
            return
        config = self.vllm_config.model_config
        with set_current_vllm_config(self.vllm_config):
            connector.final_norm = find_final_norm(
                self.model_runner.get_model(),
                layers=config.get_total_num_hidden_layers(),
                hidden_size=config.get_hidden_size(),
            )
