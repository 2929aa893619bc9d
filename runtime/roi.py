"""The region of interest: the part of every frame that is looked at."""

import math
import re
from dataclasses import dataclass

from deepir.errors import OptionError, ShapeError
from deepir.image import Image

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_FORM = re.compile(",".join([_NUMBER] * 4))


@dataclass(frozen=True, slots=True)
class Roi:
    """A rectangle; checked when it is made.

    Attributes:
        x, y, width, height: In pixels, or, when all are 1 or less, as shares of the frame's width and height.

    Raises:
        OptionError: Numbers below 0, no width or height, or shares beyond the frame.
    """

    x: float
    y: float
    width: float
    height: float

    def __post_init__(self) -> None:
        numbers = (self.x, self.y, self.width, self.height)
        if not all(math.isfinite(number) and number >= 0 for number in numbers) or 0 in (self.width, self.height):
            message = f"a region needs x,y of 0 or more and a width and height above 0, got {self}"
            raise OptionError(message)
        if self._shares and (self.x + self.width > 1 or self.y + self.height > 1):
            message = f"a region in shares of the frame must end within it: x + width and y + height are 1, got {self}"
            raise OptionError(message)

    @classmethod
    def parse(cls, text: str) -> "Roi":
        """Read `x,y,width,height`: pixels such as 100,50,640,480, or shares such as 0.25,0,0.5,1.

        Raises:
            OptionError: Not four numbers, or as when it is made.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            message = (
                f"--roi takes x,y,width,height in pixels or as shares of the frame, such as 0.25,0,0.5,1; got {text}"
            )
            raise OptionError(message)
        return cls(*(float(number) for number in found.groups()))

    def cut(self, image: Image) -> Image:
        """The part of a frame, (h, w, 3); a view, not a copy.

        Raises:
            ShapeError: The region begins or ends outside the frame.
        """
        height, width = image.shape[:2]
        across, down = (width, height) if self._shares else (1, 1)
        left, top = round(self.x * across), round(self.y * down)
        right, bottom = round((self.x + self.width) * across), round((self.y + self.height) * down)
        if right > width or bottom > height or right <= left or bottom <= top:
            message = f"the region {self} does not lie within a frame of {width}x{height} pixels"
            raise ShapeError(message)
        part: Image = image[top:bottom, left:right]
        return part

    def __str__(self) -> str:
        return ",".join(f"{number:g}" for number in (self.x, self.y, self.width, self.height))

    @property
    def _shares(self) -> bool:
        return max(self.x, self.y, self.width, self.height) <= 1
