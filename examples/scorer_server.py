"""A scorer in its own process: put your model where it says so. Needs Pillow alone, and nothing of reneg's.

scorer.toml beside this file:

    name = "brightness"
    command = ["/path/to/the/scorer's/bin/python", "scorer_server.py"]

reneg evaluate --rewards scorer.toml
"""

import json
import sys

from PIL import Image, ImageStat

# Standard output is for answers alone; what libraries print goes to standard error.
answers, sys.stdout = sys.stdout, sys.stderr


def load():
    """Your model: load it here, such as HPSv3RewardInferencer(device="cuda")."""
    return lambda image, prompt: ImageStat.Stat(image.convert("L")).mean[0] / 255


def answer(**content) -> None:
    print(json.dumps(content), file=answers, flush=True)


def main() -> None:
    model = load()
    answer(protocol=1)
    for line in sys.stdin:  # ends when reneg closes it
        request = json.loads(line)
        pairs = zip(request["images"], request["prompts"], strict=True)
        answer(id=request["id"], scores=[model(Image.open(path), prompt) for path, prompt in pairs])


if __name__ == "__main__":
    main()
