"""The operator: `kubectl apply -f bert.yaml` -> a verified BERT endpoint.

The data path:

 1. `handlers`   an event of a BertDeployment or of a child enqueues (namespace, name); nothing more happens there
 2. `work_queue` one reconcile per key at a time, with back-off and delayed looks
 3. `reconcile`  the recipe: observe, plan, apply, report
 4. `observe`    in-memory indices -> a frozen `Observed`; no API reads
 5. `plan`       pure: (Observed, settings, now) -> Plan; `request_key` says what makes a build a new build,
 6. `objects`    one pure builder per child kind (build Job, ConfigMap, Deployment, Service, ...),
 7. `servers`    one file per inference server: its config, flags, probes, ports,
 8. `checks`     named checks turn what was observed into conditions
 9. `cluster`    server-side apply of what differs, deletes, status, events
10. in the pods  `bert_build` (build_jobs/) fetches, converts, compares, publishes; preflight and verify guard serving
"""

__version__ = "0.1.0"
