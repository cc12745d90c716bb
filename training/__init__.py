"""Loops, data and configs that train the learned parts. Imports `models/`, never `nodes/`."""
