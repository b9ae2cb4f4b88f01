"""`transformers serve`, the reference's own OpenAI-compatible server, where torchvision is missing.

Without torchvision the library cannot build the video half of Qwen3-VL's processor and then serves nothing;
this gives it the processor without that half. Everything else, server, model and generation, is the
library's. Arguments are its own.

Imports first, which takes most of the time, and then serves in a new process for each line on stdin, printing
its id.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from huggingface_hub import snapshot_download
from official import OfficialImages
from transformers import AutoTokenizer
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.transformers import app
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor


class StillsProcessor(Qwen3VLProcessor):
    """Images and text, no video."""

    @classmethod
    def get_attributes(cls):
        return ["image_processor", "tokenizer"]

    def check_argument_for_proper_class(self, name, argument):
        return type(argument)


def load_processor(_, model_and_revision: str, gguf_file=None) -> StillsProcessor:
    directory = Path(snapshot_download(model_and_revision.split("@")[0], local_files_only=True))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    images = OfficialImages.from_pretrained(directory)
    return StillsProcessor(images, tokenizer, None, tokenizer.chat_template)


if __name__ == "__main__":
    ModelManager._load_processor = load_processor
    sys.argv = ["transformers", "serve", *sys.argv[1:]]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that were killed
    for _ in sys.stdin:
        server = os.fork()
        if not server:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(2, 1)  # its log is no answer
            sys.exit(app())
        print(server, flush=True)
