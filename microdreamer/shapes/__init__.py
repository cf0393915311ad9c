"""Objects to train and evaluate on: packed meshes, their pictures, and procedural shapes."""

OBJECT_RADIUS = 0.8  # distance of the farthest vertex from the middle of an object's box, in packs and of procedural shapes
FACE_LIMIT = 16_000  # of a file that is read
