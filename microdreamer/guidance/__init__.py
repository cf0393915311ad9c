"""Diffusion priors behind one small interface, the noise schedule and the samplers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from microdreamer.core.ahead import in_background
from microdreamer.guidance.names import PRECISIONS, PRIORS, SENTENCE_ENCODERS

if TYPE_CHECKING:
    import torch

    from microdreamer.guidance.base import Prior
    from microdreamer.guidance.published.latent import Parts
    from microdreamer.guidance.sentences import SentenceEncoder

__all__ = ["PRECISIONS", "PRIORS", "SENTENCE_ENCODERS", "load_prior", "load_sentence_encoder"]


def load_prior(
    name: str, path: str | None = None, device: torch.device | str = "cpu", precision: str = PRECISIONS[0], memory_gib: float | None = None
) -> Prior:
    """The prior called `name`, with the weights at `path` (None: the ones that ship or its public checkpoint).

    precision: auto (float16 on a GPU, float32 on the CPU), float32, float16 or bfloat16; memory_gib: what one network call
    may take beyond the weights (None: a quarter of what is free). The micro prior chooses for itself
    (`guidance.micro.prior.choose_dtype`) and does not look at memory_gib.
    Raises ValueError for a name that is not in PRIORS, FileNotFoundError or ValueError for weights that do not load.
    """
    if name not in PRIORS:
        raise ValueError(f"prior={name}: expected one of {', '.join(PRIORS)}")
    if name == "micro":
        from microdreamer.guidance.micro.prior import MicroPrior

        return MicroPrior.load(path, device, precision)
    from microdreamer.core.machine import load_libraries
    from microdreamer.guidance.published.latent import Parts

    parts = Parts.choose(device, precision, memory_gib)
    libraries = in_background(lambda: load_libraries(parts.device, parts.dtype))
    prior = _load_published(name, path, parts)
    libraries.join()
    return prior


def _load_published(name: str, path: str | None, parts: Parts) -> Prior:
    if name == "mvdream":
        from microdreamer.guidance.published.mvdream import MVDreamPrior

        return MVDreamPrior.load(path, parts)
    if name == "imagedream":
        from microdreamer.guidance.published.imagedream import ImageDreamPrior

        return ImageDreamPrior.load(path, parts)
    if name == "stable_diffusion":
        from microdreamer.guidance.published.stable_diffusion import StableDiffusionPrior

        return StableDiffusionPrior.load(path, parts)
    from microdreamer.guidance.published.zero123 import Zero123Prior

    return Zero123Prior.load(name, path, parts)


def load_sentence_encoder(
    name: str, path: str | None = None, device: torch.device | str = "cpu", precision: str = PRECISIONS[0]
) -> SentenceEncoder:
    """The text tower of the prior called `name` alone: what `load_prior(...).sentence_encoder()` is, without the rest of the weights.

    Arguments and errors as of `load_prior`; of a folder at `path` only what belongs to text is looked at. Raises ValueError for a
    prior without a text tower.
    """
    if name not in SENTENCE_ENCODERS:
        raise ValueError(f"prior={name}: gives no embeddings of sentences; expected one of {', '.join(SENTENCE_ENCODERS)}")
    if name == "micro":
        import torch

        from microdreamer.guidance.micro.prior import choose_dtype
        from microdreamer.guidance.micro.sentences import MicroSentenceEncoder

        return MicroSentenceEncoder.load(path, device, choose_dtype(torch.device(device), precision))
    from microdreamer.guidance.published.latent import Parts
    from microdreamer.guidance.published.presets import find_checkpoint
    from microdreamer.guidance.published.text import TOWER, TextEncoder

    return TextEncoder.load(find_checkpoint(name, path, (TOWER,)), Parts.choose(device, precision))
