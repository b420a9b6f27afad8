"""What each task's artifact puts out, and what transformers calls the model that does it. Pure."""

from typing import Final

from bert_operator.api.spec import Task

EMBEDDING: Final = "sentence_embedding"
"""Second output of a feature extractor whose source says how sentences are pooled (see sentence.py)."""
OUTPUTS: Final[dict[Task, tuple[str, ...]]] = {
    Task.SEQUENCE_CLASSIFICATION: ("logits",),
    Task.TOKEN_CLASSIFICATION: ("logits",),
    Task.QUESTION_ANSWERING: ("start_logits", "end_logits"),
    Task.FILL_MASK: ("mask_logits",),
    Task.FEATURE_EXTRACTION: ("last_hidden_state",),
}
"""Names of the outputs, all float32: `logits` [batch, labels], of tokens [batch, length, labels]; `start_logits` and
`end_logits` [batch, length]; `mask_logits` [batch, vocabulary]; `last_hidden_state` [batch, length, hidden].

`mask_logits` are those of a row's first mask token. Those of all positions, as transformers gives them, would be 16 MB
for a row of 128 tokens of BERT base, of which nobody reads more than the masked ones.
"""
_PER_TOKEN: Final = (Task.TOKEN_CLASSIFICATION, Task.QUESTION_ANSWERING, Task.FEATURE_EXTRACTION)
HEADS: Final = {
    Task.SEQUENCE_CLASSIFICATION: "ForSequenceClassification",
    Task.TOKEN_CLASSIFICATION: "ForTokenClassification",
    Task.QUESTION_ANSWERING: "ForQuestionAnswering",
    Task.FILL_MASK: "ForMaskedLM",
}
"""How the names of transformers' classes end. The encoder alone has no such ending."""
LABELLED: Final = (Task.SEQUENCE_CLASSIFICATION, Task.TOKEN_CLASSIFICATION)
"""Whose outputs stand for the labels that config.json names."""


def outputs(task: Task, *, pooled: bool) -> tuple[str, ...]:
    """Names of an artifact's outputs; `pooled` if its source says how sentences become vectors."""
    more = (EMBEDDING,) if pooled and task is Task.FEATURE_EXTRACTION else ()
    return OUTPUTS[task] + more


def per_token(task: Task, output: str) -> bool:
    """Whether an output has the axes [batch, length, ...]."""
    return task in _PER_TOKEN and output != EMBEDDING
