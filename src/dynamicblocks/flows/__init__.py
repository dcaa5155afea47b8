"""Continuous normalizing flows: fields, transforms, flows, and what they are trained by."""
