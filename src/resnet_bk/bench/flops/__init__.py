"""Floating-point operations of a training step: counted, by the earlier report's convention, and as tables."""
