{{- define "bert-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "bert-operator.selector" -}}
app.kubernetes.io/name: bert-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bert-operator.labels" -}}
{{ include "bert-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "bert-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else if .Values.serviceAccount.create -}}
{{- include "bert-operator.fullname" . -}}
{{- else -}}
{{- fail "serviceAccount.name: with serviceAccount.create false, name the ServiceAccount to use" -}}
{{- end -}}
{{- end -}}

{{/*
How one operator replaces another. Two at once only if both ask for the Lease: one that doesn't (an older chart,
leaderElection.enabled false) writes all the time. Its pods lack the annotation, so it ends first, this one time.
Without a cluster (helm template) nothing is found, as before a first install.
*/}}
{{- define "bert-operator.replacement" -}}
{{- $live := lookup "apps/v1" "Deployment" .Release.Namespace (include "bert-operator.fullname" .) -}}
{{- $asks := dig "spec" "template" "metadata" "annotations" "bertops.dev/election" "" $live | eq "true" -}}
{{- if and .Values.leaderElection.enabled (or (not $live) $asks) -}}RollingUpdate{{- else -}}Recreate{{- end -}}
{{- end -}}

{{/* What bert_operator.settings reads; a test parses it with that module. */}}
{{- define "bert-operator.settings" -}}
{{- $releases := dict -}}
{{- range $name, $release := .Values.triton.releases -}}
{{- if $release -}}{{- $_ := set $releases $name $release -}}{{- end -}}
{{- end -}}
{{- if not (hasKey $releases .Values.triton.defaultRelease) -}}
{{- fail (printf "triton.defaultRelease: %q is none of triton.releases (%s)" .Values.triton.defaultRelease (keys $releases | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $profiles := dict -}}
{{- range $name, $profile := .Values.hardwareProfiles -}}
{{- if not (kindIs "invalid" $profile) -}}{{- $_ := set $profiles $name $profile -}}{{- end -}}
{{- end -}}
images:
  {{- with .Values.images.tensorflow }}
  tensorflow: {{ . | quote }}
  {{- end }}
  {{- with .Values.images.buildGpu }}
  buildGpu: {{ . | quote }}
  {{- end }}
  {{- with .Values.images.analyzer }}
  analyzer: {{ . | quote }}
  {{- end }}
  operator: {{ .Values.images.operator | required "images.operator: name the image built from operator/Dockerfile, e.g. --set images.operator=registry.example.com/bert-operator:0.1.0" | quote }}
  build: {{ .Values.images.build | required "images.build: name the image built from build_jobs/pytorch.Dockerfile, e.g. --set images.build=registry.example.com/bert-build:0.1.0" | quote }}
imagePullPolicy: {{ .Values.imagePullPolicy }}
triton:
  defaultRelease: {{ .Values.triton.defaultRelease | quote }}
  releases:
    {{- toYaml $releases | nindent 4 }}
{{- range $server := list "tfserving" "torchserve" }}
{{- with index $.Values $server }}
{{- if .releases }}
{{- if not (hasKey .releases .defaultRelease) }}
{{- fail (printf "%s.defaultRelease: %q is none of %s.releases (%s)" $server .defaultRelease $server (keys .releases | sortAlpha | join ", ")) }}
{{- end }}
{{ $server }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
hardwareProfiles:
  {{- toYaml $profiles | nindent 2 }}
build:
  {{- toYaml .Values.build | nindent 2 }}
workers: {{ int .Values.workers }}
resyncSeconds: {{ int .Values.resyncSeconds }}
{{- with .Values.leaderElection }}
{{- if .enabled }}
leaderElection:
  namespace: {{ $.Release.Namespace }}
  name: {{ include "bert-operator.fullname" $ }}
  leaseDurationSeconds: {{ int .leaseDurationSeconds }}
  renewDeadlineSeconds: {{ int .renewDeadlineSeconds }}
  retryPeriodSeconds: {{ int .retryPeriodSeconds }}
{{- end }}
{{- end }}
store:
  unusedArtifactsRetention: {{ .Values.store.unusedArtifactsRetention | quote }}
{{- end -}}

{{/* Everything the operator may do in a namespace. No Secrets, no roles, no exec, no wildcard; tests/golden checks it. */}}
{{- define "bert-operator.rules" -}}
# What users ask for: read, never written.
- apiGroups: [bertops.dev]
  resources: [bertdeployments]
  verbs: [list, watch]
# What the operator reports about it.
- apiGroups: [bertops.dev]
  resources: [bertdeployments/status]
  verbs: [patch]
# Records of published artifacts. create and patch: server-side apply needs both. delete: before unused files go.
- apiGroups: [bertops.dev]
  resources: [bertartifacts]
  verbs: [list, watch, create, patch, delete]
# The servers. Deletion is the garbage collector's, by owner reference.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, create, patch]
# Which configuration a rollout can still go back to.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list, watch]
# Autoscalers of the servers. get: `kubectl autoscale` gives its own the same name. delete: once spec.autoscaling is gone.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
# What keeps drains from taking all pods of a server at once. delete: once spec.podDisruptionBudget is turned off.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
# Who may reach the servers. delete: once spec.networkPolicy is turned off.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
# get: a Service carries the BertDeployment's plain name, so first see that it isn't somebody else's.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
# Server configuration, immutable and named by its content. delete: those no revision mounts any more.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [list, watch, create, patch, delete]
# Builds. patch: a second BertDeployment that wants the same build becomes its owner too. delete: once recorded.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch, create, patch, delete]
# Stores made from storage.size. patch: let one grow. Never delete: retentionPolicy works by owner reference.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, watch, create, patch]
# Progress and failures of builds and servers.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# One Event for each change worth telling. list: only Events say why a Job gets no pod.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, list]
{{- end -}}
