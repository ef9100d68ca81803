"""A SAM native to volumes."""

from .build import VARIANTS, Sam3dVariant, build_sam3d
from .image_encoder import ImageEmbedding, ImageEncoder3d
from .mask_decoder import MaskDecoder3d
from .position_tables import resized_position_tables
from .prompt_encoder import PromptEncoder3d
from .prompt_maps import Prompts, box_maps, point_maps
from .sam3d import Sam3d, Sam3dOutput
from .sam_weights import InflationReport, inflate_sam_checkpoint
from .two_way_transformer import TwoWayTransformer3d

__all__ = [
    "VARIANTS",
    "ImageEmbedding",
    "ImageEncoder3d",
    "InflationReport",
    "MaskDecoder3d",
    "PromptEncoder3d",
    "Prompts",
    "Sam3d",
    "Sam3dOutput",
    "Sam3dVariant",
    "TwoWayTransformer3d",
    "box_maps",
    "build_sam3d",
    "inflate_sam_checkpoint",
    "point_maps",
    "resized_position_tables",
]
