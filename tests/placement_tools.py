"""For tests of what is cut from pictures and put back."""

import numpy as np
from hypothesis import strategies as st

from capricious.data.records import Face
from capricious.render.composite import FEATHER, Compositing, Placement
from capricious.render.scan import Scan


def square(x: float, y: float, side: float, degrees: float = 0.0) -> np.ndarray:
    """A quad by its centre, side and angle (clockwise on screen)."""
    turn = np.deg2rad(degrees)
    right = side / 2 * np.array([np.cos(turn), np.sin(turn)])
    down = np.array([-right[1], right[0]])
    centre = np.array([x, y])
    corners = [centre - right - down, centre - right + down, centre + right + down, centre + right - down]
    return np.stack(corners).astype(np.float32)


quads = st.builds(square, st.floats(-50, 250), st.floats(-50, 200), st.floats(5, 400), st.floats(-180, 180))
"""For pictures of about 200 × 150."""


def pasted(
    picture: np.ndarray | Scan,
    face: Face,
    reconstruction: np.ndarray,
    target: np.ndarray,
    *,
    feather=FEATHER,
    **composite,
):
    """A copy of a picture or a scan with one face changed from reconstruction to target."""
    scan = picture if isinstance(picture, Scan) else Scan(picture)
    out = scan.copy()
    Placement(scan, face, reconstruction, Compositing(**composite), feather=feather).paint([out], [target])
    return out if isinstance(picture, Scan) else out.srgb
