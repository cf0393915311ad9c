"""Objects to train and evaluate on: packed meshes, their pictures, and procedural shapes."""
