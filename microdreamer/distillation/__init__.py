"""Objectives that turn a prior into targets or losses for any renderable representation."""
