{{- define "fogbook.labels" -}}
app.kubernetes.io/name: fogbook
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "fogbook.selector" -}}
app.kubernetes.io/name: fogbook
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "fogbook.name" -}}
{{ .root.Release.Name }}-{{ .part }}
{{- end }}

{{- define "fogbook.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "fogbook.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "fogbook.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- define "fogbook.env" -}}
- name: FOGBOOK_SECRETS
  value: /run/secrets/fogbook
- name: FOGBOOK_PRODUCTION
  value: "true"
- name: FOGBOOK_HOST
  value: 0.0.0.0
- name: FOGBOOK_API_URL
  value: http://{{ .Release.Name }}-commands:8420
- name: FOGBOOK_SUBJECT_KEYS
  value: /var/lib/fogbook/subjects
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- /* A volume of the Secret's named keys; a key with a colon is mounted under the name behind it. */}}
{{- define "fogbook.secrets" -}}
- name: secrets
  secret:
    secretName: {{ .root.Values.secretName }}
    defaultMode: 0440
    items:
      {{- range .keys }}
      {{- $parts := splitList ":" . }}
      - key: {{ first $parts }}
        path: {{ last $parts }}
      {{- end }}
- name: tmp
  emptyDir:
    medium: Memory
    sizeLimit: 64Mi
{{- end }}

{{- define "fogbook.mounts" -}}
- name: secrets
  mountPath: /run/secrets/fogbook
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- end }}

{{- /* A process listens once it has reached the database; it stays in service while that is away, and says so itself:
       its 503 with Retry-After says more than a refused connection. So both look at the process only. */}}
{{- define "fogbook.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 3
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{- define "fogbook.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "fogbook.selector" . | nindent 8 }}
{{- end }}
