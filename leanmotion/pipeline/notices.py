"""Notices of diffusers and transformers that tell whoever loads a pruned adapter of nothing: left out of the log."""

import logging

VAIN = {
    # Image processors that diffusers' pipelines import and that draw nothing here; their fallback does the same.
    "transformers.utils.import_utils": "requires torchvision (not installed); falling back to",
    # Said of a list of modules that is empty.
    "diffusers.models.modeling_utils": "should be kept in float32: []",
}
"""Logger -> words of the one message of it that is left out."""


def leave_out_vain_notices() -> None:
    """Drop these messages in this process, and no others; the libraries need not be imported yet."""
    for name, words in VAIN.items():
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Without) for one in logger.filters):
            logger.addFilter(_Without(words))


class _Without(logging.Filter):
    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return self.words not in record.getMessage()
