"""Every class that runs tiny, and why the others do not."""

from pipelines.builders_animate import CASES as ANIMATE_CASES
from pipelines.builders_image import CASES as IMAGE_CASES
from pipelines.builders_image_more import CASES as MORE_IMAGE_CASES
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
]

_NOT_BUILT = "no tiny pipeline was built for it"
_ENCODERS = "its second text encoder must be loaded, and no tiny one was built"
_RESIZES = "it resizes every picture to about a megapixel, too slow here"
_FAILS = "it gives its own encode_prompt an argument which that does not take, and fails whatever it is given"
_REASONS = (
    (_FAILS, "EasyAnimateControlPipeline"),
    (
        _ENCODERS,
        """
        HiDreamImagePipeline HunyuanImagePipeline HunyuanVideo15Pipeline HunyuanVideo15ImageToVideoPipeline
        AudioLDM2Pipeline
        """,
    ),
    (
        _RESIZES,
        "QwenImageEditPipeline QwenImageEditInpaintPipeline QwenImageEditPlusPipeline QwenImageLayeredPipeline",
    ),
    (
        _NOT_BUILT,
        """
        Kandinsky6TI2VAPipeline StableDiffusion3ControlNetInpaintingPipeline PRXPixelPipeline
        QwenImage21Pipeline Cosmos2_5_TransferPipeline LTX2Pipeline LTX2ConditionPipeline
        LTX2ImageToVideoPipeline LTX2InContextPipeline LTX2HDRPipeline MotifVideoPipeline
        MotifVideoImage2VideoPipeline LongCatImagePipeline LongCatImageEditPipeline ZImageOmniPipeline
        HunyuanImageRefinerPipeline StableAudioPipeline StableAudio3Pipeline
        """,
    ),
)
UNTESTED: dict[str, str] = {name: reason for reason, names in _REASONS for name in names.split()}
"""Class of the table -> why it does not run here."""
