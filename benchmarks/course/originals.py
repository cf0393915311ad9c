"""What the course project that this repository continues reported of its kernels, in its own words and on its machines.

None of it was measured here. The whole Python call and the kernels were timed on AWS instances with a T4 and an A10G.
"""

COEFFICIENTS_MS = {"PyTorch, reported as CPU": 252.0, "kernel": 0.112}  # gaussian_3d_coeff
FIELD_MS = {"Python": 17_367.0, "T4, kernel": 181.7, "A10G, kernel": 21.36, "A10G, kernel alone": 10.526}  # extract_fields
REPORTED = {"T4": 95.6, "A10G": 813.0, "A10G, kernel alone": 1650.0, "coefficients": 22.4}


def factors() -> list[tuple[str, float]]:
    """Their last figure taken apart: its factors, and their product."""
    times = FIELD_MS
    parts = [
        ("other code, the same card (T4)", times["Python"] / times["T4, kernel"]),
        ("the same code, another card (T4 to A10G)", times["T4, kernel"] / times["A10G, kernel"]),
        ("the same run, another clock (the call to the kernel alone)", times["A10G, kernel"] / times["A10G, kernel alone"]),
    ]
    return [*parts, ("together", times["Python"] / times["A10G, kernel alone"])]
