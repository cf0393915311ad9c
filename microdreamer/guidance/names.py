"""The priors there are, by name; apart from them because reading a configuration should not wait for PyTorch."""

# Every prior there is and what it can be conditioned on: errors name the ones that can do what was asked.
PRIORS: dict[str, frozenset[str]] = {
    "micro": frozenset({"image", "prompt"}),
    "zero123_xl": frozenset({"image"}),
    "stable_zero123": frozenset({"image"}),
    "mvdream": frozenset({"prompt"}),
    "imagedream": frozenset({"image", "prompt"}),
    "stable_diffusion": frozenset({"prompt"}),
}
SENTENCE_ENCODERS = ("micro", "mvdream", "imagedream", "stable_diffusion")  # those with a text tower
PRECISIONS = ("auto", "float32", "float16", "bfloat16")  # in which the published ones compute
WHOLE = (0.0, 1.0)  # the shares of the schedule between which a sampler guides, unless told
FULL_NOISE = 1.0  # of `temperature`: as much noise as the schedule has
