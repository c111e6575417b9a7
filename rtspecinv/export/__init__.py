"""A push of a stream as a file for other programs: ONNX or torch.export."""

from rtspecinv.export.files import export_step

__all__ = ["export_step"]
