"""Pixel contrast: which pixels ask (anchors), what they are compared with (keys, memory), and how (loss)."""

from pixcon_core.contrast.module import PixelContrast
from pixcon_core.contrast.output import ContrastOutput, ContrastStats
from pixcon_core.contrast.workers import keep_out_of_ddp

__all__ = ["ContrastOutput", "ContrastStats", "PixelContrast", "keep_out_of_ddp"]
