"""The HorizontalPodAutoscaler of `spec.autoscaling`. It scales the Deployment; `scaling` says when it may."""

from collections.abc import Mapping
from typing import Any, Final

from bert_operator.api import spec as api
from bert_operator.objects.identity import Identity

KIND: Final = "HorizontalPodAutoscaler"


def manifest(identity: Identity, autoscaling: api.Autoscaling) -> dict[str, Any]:
    """Autoscaler of the Deployment, under the Deployment's name."""
    spec: dict[str, Any] = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": identity.child_name},
        "minReplicas": autoscaling.min_replicas,
        "maxReplicas": autoscaling.max_replicas,
        "metrics": [_metric(metric) for metric in autoscaling.metrics],
    }
    behavior = _behavior(autoscaling.behavior) if autoscaling.behavior else {}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": KIND,
        "metadata": {
            "name": identity.child_name,
            "namespace": identity.namespace,
            "labels": identity.labels("server"),
            "ownerReferences": [identity.owner_reference(controller=True)],
        },
        "spec": spec | ({"behavior": behavior} if behavior else {}),
    }


def _metric(metric: api.CpuMetric) -> dict[str, Any]:
    target = {"type": "Utilization", "averageUtilization": metric.average_utilization}
    return {"type": "Resource", "resource": {"name": metric.type, "target": target}}


def _behavior(behavior: api.ScalingBehavior) -> dict[str, Mapping[str, int]]:
    wished = {"scaleUp": behavior.scale_up, "scaleDown": behavior.scale_down}
    return {
        direction: {"stabilizationWindowSeconds": rule.stabilization_window_seconds}
        for direction, rule in wished.items()
        if rule is not None
    }
