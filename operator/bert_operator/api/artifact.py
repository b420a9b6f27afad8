"""BertArtifact: the operator's record of what is published on a claim. Internal; users get read verbs."""

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from bert_operator.api.base import Model, Rule, unique
from bert_operator.api.measurement import Measurements
from bert_operator.api.report import BuildReport
from bert_operator.api.spec import ObjectName, RelativePath

Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]+$", max_length=64)]


class BertArtifactSpec(Model):
    """One published artifact and the requests it answers."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            # Not the manifest's digest: a store that was emptied is filled again under the same key.
            rule="self.claimName == oldSelf.claimName && self.claimUid == oldSelf.claimUid "
            "&& self.path == oldSelf.path && self.report.artifactKey == oldSelf.report.artifactKey",
            message="claimName, claimUid, path and report.artifactKey say which artifact this record is about and "
            "can't change: delete the record; the operator writes a new one with the next build",
        ),
    )

    claim_name: ObjectName = Field(description="Claim that holds the artifact.")
    claim_uid: str = Field(max_length=64, description="UID of that claim: a new claim of the same name holds nothing.")
    path: RelativePath = Field(description="Folder of the artifact inside the claim.")
    request_keys: Annotated[
        list[Hex], Field(max_length=64, json_schema_extra={"x-kubernetes-list-type": "set"}), unique()
    ] = Field(description="Requests that this artifact answers.")
    report: BuildReport = Field(description="What the build reported.")
    measurements: Measurements = Field(
        default_factory=list, description="How fast it was served, one entry for each way it was measured."
    )
