{{/* Names and labels that every object shares. */}}

{{- define "lattice.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "lattice.labels" -}}
app.kubernetes.io/name: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/part-of: lattice
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* What a selector may hold never changes. */}}
{{- define "lattice.selector" -}}
app.kubernetes.io/name: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{/* How agents reach central. */}}
{{- define "lattice.centralHost" -}}
{{- .Values.central.service.clusterIP | default (printf "%s-central.%s.svc" (include "lattice.name" .) .Release.Namespace) -}}
{{- end -}}

{{/* Whether anybody may scrape; who asks for it without central is told. */}}
{{- define "lattice.isScraped" -}}
{{- if .Values.metrics.enabled -}}
{{- if not .Values.central.enabled -}}
{{- fail "metrics.enabled needs central.enabled: the certificates come from central" -}}
{{- end -}}
yes
{{- end -}}
{{- end -}}

{{/* An image by its digest, where one is given. */}}
{{- define "lattice.image" -}}
{{- $image := .root.Values.image -}}
{{- $digest := index $image.digests .program -}}
{{- if $digest -}}
{{ printf "%s/lattice-%s@%s" $image.registry .program $digest }}
{{- else -}}
{{ printf "%s/lattice-%s:%s" $image.registry .program ($image.tag | default .root.Chart.AppVersion) }}
{{- end -}}
{{- end -}}

{{/* A NetworkPolicy's rule for who scrapes, where somebody may. */}}
{{- define "lattice.scrapeIngress" -}}
{{- if include "lattice.isScraped" . -}}
- ports:
    - {port: metrics, protocol: TCP}
  {{- with .Values.metrics.scrapers }}
  from: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* What runs images, by its own name or in its template. */}}
{{- define "lattice.admissionRules" -}}
- apiGroups: [""]
  apiVersions: [v1]
  operations: [CREATE, UPDATE]
  resources: [pods, pods/ephemeralcontainers, replicationcontrollers]
  scope: Namespaced
- apiGroups: [apps]
  apiVersions: [v1]
  operations: [CREATE, UPDATE]
  resources: [deployments, replicasets, statefulsets, daemonsets]
  scope: Namespaced
- apiGroups: [batch]
  apiVersions: [v1]
  operations: [CREATE, UPDATE]
  resources: [jobs, cronjobs]
  scope: Namespaced
{{- end -}}

{{/* Whether a request changes what is run: all that makes an object, and of an update what is another pod afterwards. */}}
{{- define "lattice.admissionChange" -}}
oldObject == null || (request.resource.resource == 'pods' ? object.spec != oldObject.spec : request.resource.resource == 'cronjobs' ? object.spec.jobTemplate != oldObject.spec.jobTemplate : object.spec.template != oldObject.spec.template)
{{- end -}}

{{/* Namespaces that admission never asks about: those that a cluster and Lattice itself start from. */}}
{{- define "lattice.exemptNamespaces" -}}
{{- concat (list "kube-system" "kube-node-lease" "kube-public" .Release.Namespace) .Values.central.admission.exemptNamespaces | uniq | toJson -}}
{{- end -}}

{{/* The pod's specification in an object that runs images. */}}
{{- define "lattice.podSpecOf" -}}
(request.resource.resource == 'pods' ? {{ . }}.spec : request.resource.resource == 'cronjobs' ? {{ . }}.spec.jobTemplate.spec.template.spec : {{ . }}.spec.template.spec)
{{- end -}}

{{/* The images in it, of containers and of volumes. */}}
{{- define "lattice.imagesOf" -}}
((has({{ . }}.initContainers) ? {{ . }}.initContainers : []) + (has({{ . }}.containers) ? {{ . }}.containers : []) + (has({{ . }}.ephemeralContainers) ? {{ . }}.ephemeralContainers : [])).filter(container, has(container.image) && container.image != '').map(container, container.image) + (has({{ . }}.volumes) ? {{ . }}.volumes.filter(volume, has(volume.image) && has(volume.image.reference) && volume.image.reference != '').map(volume, volume.image.reference) : [])
{{- end -}}
