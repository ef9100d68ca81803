"""AutoPromptSeg: semi-supervised 3-D medical image segmentation with a Segment Anything model that prompts itself."""

__version__ = "0.1.0"
