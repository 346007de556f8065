"""What `reneg learn` does on the world from the command to the end of its first update, and how long each part takes.

python benchmarks/start.py        # writes start.json; a quarter of a minute on idle cores, with all of torch's threads
"""

import json
import os
import tempfile
import time
from pathlib import Path

BEGIN = time.perf_counter()


def main() -> None:
    seconds, since = dict[str, float](), BEGIN

    def done(part: str) -> None:
        nonlocal since
        now = time.perf_counter()
        seconds[part], since = round(now - since, 2), now

    import torch

    done("import torch")
    from reneg import learning
    from reneg.config import LearnConfig, preset
    from reneg.run_folder import learning_prompts

    done("import all else")
    with tempfile.TemporaryDirectory() as folder:
        config = LearnConfig(output_dir=Path(folder) / "run", **preset("world"))
        prompts, accelerator = learning_prompts(config), learning.make_accelerator(config)
        model, monitor = learning.load_model_and_monitor(config, prompts, device="cpu")
        reward = learning.load_mixture(config.reward, device="cpu")
        learner = learning.Learner(config, model, reward, monitor, prompts, accelerator)
        learner._start()
        done("weights")
        learner._prepare(1)
        done("the first update's prompts")
        learner._update()
        done("the first update")
    result = {"seconds": seconds, "sum": round(since - BEGIN, 2), "threads": torch.get_num_threads()}
    result |= {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1), "torch": torch.__version__}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
