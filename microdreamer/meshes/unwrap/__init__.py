"""UV unwrapping: a layout of a mesh's faces in a square texture. `parametrize.unwrap` is the way in."""

METHODS = ("charts", "xatlas")  # the project's own, and the library of that name; here so that a configuration needs no PyTorch
PADDING = 2.0  # texels between charts, at least
