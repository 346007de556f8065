"""Every class that runs tiny, and why the others do not."""

from pipelines.builders_animate import CASES as ANIMATE_CASES
from pipelines.builders_audio import CASES as AUDIO_CASES
from pipelines.builders_edit import CASES as EDIT_CASES
from pipelines.builders_guiders import CASES as GUIDER_CASES
from pipelines.builders_image import CASES as IMAGE_CASES
from pipelines.builders_image_more import CASES as MORE_IMAGE_CASES
from pipelines.builders_last import CASES as LAST_CASES
from pipelines.builders_older import CASES as OLDER_CASES
from pipelines.builders_sd import CASES as SD_CASES
from pipelines.builders_sd_more import CASES as MORE_SD_CASES
from pipelines.builders_video import CASES as VIDEO_CASES
from pipelines.builders_video_more import CASES as MORE_VIDEO_CASES
from pipelines.builders_wan import CASES as WAN_CASES

CASES = [
    *SD_CASES,
    *MORE_SD_CASES,
    *ANIMATE_CASES,
    *IMAGE_CASES,
    *MORE_IMAGE_CASES,
    *OLDER_CASES,
    *VIDEO_CASES,
    *MORE_VIDEO_CASES,
    *WAN_CASES,
    *EDIT_CASES,
    *GUIDER_CASES,
    *AUDIO_CASES,
    *LAST_CASES,
]

_REASONS = (
    (
        "it gives its own encode_prompt an argument which that does not take, and fails whatever it is given",
        "EasyAnimateControlPipeline",
    ),
    ("its ControlNet calls torchvision, which is not installed", "Cosmos2_5_TransferPipeline"),
)
UNTESTED: dict[str, str] = {name: reason for reason, names in _REASONS for name in names.split()}
"""Class of the table -> why it does not run here."""
