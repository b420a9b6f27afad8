"""`bertctl validate`: the API server's and the operator's verdict on a file, without a cluster."""

import argparse

from bert_operator.cli import assumed, documents, faults, imagined
from bert_operator.cli.documents import Document
from bert_operator.cli.terminal import Exit, FailureError, note, out
from bert_operator.settings import Settings


def run(options: argparse.Namespace) -> Exit:
    """Check every file; one line for each fault, one for each good document."""
    settings = assumed.settings(options.settings) if options.settings else None
    good = [_file(file, settings) for file in options.files]
    return Exit.OK if all(good) else Exit.FAILED


def _file(file: str, settings: Settings | None) -> bool:
    try:
        read = documents.read(file)
    except FailureError as error:
        out(str(error))
        return False
    ours = [document for document in read if documents.is_bert(document)]
    for other in read:
        if other not in ours:
            note(f"{other.title}: skipped, only BertDeployments are checked")
    if not ours:
        note(f"{'standard input' if file == '-' else file}: holds no BertDeployment")
    return all([_document(document, settings) for document in ours])  # noqa: C419 - every one is to be told


def _document(document: Document, settings: Settings | None) -> bool:
    found = faults.of_resource(document.content)
    if not found and settings is not None:
        refusal = imagined.refusal(imagined.live(document.content, "default"), settings)
        found = [refusal] if refusal else []
    for fault in found:
        out(f"{document.title}: {fault}")
    if not found:
        out(f"{document.title}: ok")
    return not found
