"""Offline preprocessing: ImageNet in any of its forms to a store of small images with exact statistics."""

__version__ = "0.2.0"
