"""The handler in each .mar: what TorchServe calls. Everything it knows of BERT is in served_bert.py beside it."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import served_bert
import torch
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class BertHandler(BaseHandler):  # type: ignore[misc]  # TorchServe has no types
    """Texts or tensors in, labels by name or tensors out."""

    def initialize(self, context: Any) -> None:  # noqa: ANN401 - TorchServe's context
        """Load the model of one worker process. The server isn't ready before this returns."""
        properties = context.system_properties
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        facts = served_bert.Facts.of(context.model_yaml_config["handler"])
        # What the operator says of each model's serving; a server without the operator does without.
        told = json.loads(os.environ.get("BERTOPS_HANDLER", "{}")).get(context.model_name, {})
        rows = int(told.get("rows") or properties.get("batch_size") or 1)
        self.bert = served_bert.ServedBert(Path(properties["model_dir"]), facts, rows)
        if told.get("warmup", True):
            self.bert.warm()
        self.initialized = True

    def handle(self, data: Sequence[Mapping[str, object]], context: Any) -> list[str]:  # noqa: ANN401 - as above
        """Answer each request of a batch in its place; a wrong one gets 400 and costs the others nothing."""
        questions: dict[int, Any] = {}
        answers: dict[int, dict[str, Any] | Exception] = {}
        for place, request in enumerate(data):
            try:
                questions[place] = self.bert.question(request.get("data", request.get("body")))
            except served_bert.BadRequestError as error:
                answers[place] = error
        answers |= dict(zip(questions, self.bert.answers(list(questions.values())), strict=True))
        return [self._sent(context, place, answers[place]) for place in range(len(data))]

    def _sent(self, context: Any, place: int, answer: dict[str, Any] | Exception) -> str:  # noqa: ANN401 - as above
        """One answer as JSON; errors look like TorchServe's own."""
        context.set_response_content_type(place, "application/json")
        if not isinstance(answer, Exception):
            return json.dumps(answer)
        code, kind, message = 400, "BadRequestException", str(answer)
        if not isinstance(answer, served_bert.BadRequestError):
            logger.error("a request failed: %s", answer)
            code, kind, message = 500, "PredictionException", "the model failed on this request: see the server's log"
        context.set_response_status(code=code, phrase=kind, idx=place)
        return json.dumps({"code": code, "type": kind, "message": message})
