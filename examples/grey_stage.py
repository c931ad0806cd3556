"""A stage: the frame in grey, twice as large.

enhancer = Enhancer(Generator())
enhancer.stages.append(GreyTwice())  # after the faces; insert(0, ...) runs it before them
pc.addTrack(EnhancedVideoTrack(track, enhancer))
"""

from receiver.enhance.stage import Canvas, FrameContext, Stage
from receiver.media.planes import planes


class GreyTwice(Stage):
    """Removes the colours and doubles the size by repeating pixels."""

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """Returns twice the size."""
        return 2 * width, 2 * height

    def run(self, context: FrameContext, canvas: Canvas) -> Canvas:
        """Returns a canvas of twice the size; chroma at its middle is grey."""
        size = self.output_size(canvas.video.width, canvas.video.height)
        larger = canvas.video.reformat(*size, interpolation="POINT")
        for chroma in planes(larger)[1:]:
            chroma[:] = 128 if chroma.dtype == "uint8" else 512
        return canvas.replaced(larger)
