"""How objects are looked at unless told otherwise; apart from `cam_utils`, which gives it on, because reading a configuration should
not wait for PyTorch."""

FOV_Y = 49.1  # degrees, vertical; the originals' value
RADIUS = 2.0  # distance at which the unit-sized objects of this project fill a picture of that field of view
