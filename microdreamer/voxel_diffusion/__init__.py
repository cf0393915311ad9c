"""Diffusion of voxel grids: data, schedule, 3D U-Net, five ways to choose timesteps, training, sampling, evaluation, viewing."""
