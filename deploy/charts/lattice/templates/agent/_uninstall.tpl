{{/*
What an agent's pod does instead of enforcing, where agent.uninstall is set. It is ready when nothing of Lattice's is left on its node, and then
only waits to be removed itself. The runtime's own seccomp profile does for it, since it removes the agent's.
*/}}
{{- define "lattice.agentUninstall" -}}
initContainers:
  - name: uninstall
    {{- include "lattice.agentUninstallContainer" (list . "") | nindent 4 }}
containers:
  - name: agent
    {{- include "lattice.agentUninstallContainer" (list . "--stay") | nindent 4 }}
volumes:
  - name: bpf
    hostPath: {path: /sys/fs/bpf, type: Directory}
  - name: state
    hostPath: {path: /var/lib/lattice, type: DirectoryOrCreate}
  - name: sockets
    hostPath: {path: /run/lattice, type: DirectoryOrCreate}
  - name: seccomp
    hostPath: {path: {{ .Values.agent.kubeletRoot }}/seccomp/lattice, type: DirectoryOrCreate}
{{- end -}}

{{- define "lattice.agentUninstallContainer" -}}
{{- $root := index . 0 -}}
image: {{ include "lattice.image" (dict "root" $root "program" "agent") }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
args:
  - uninstall
  - --empty=/var/lib/lattice
  - --empty=/run/lattice
  - --empty=/seccomp
  {{- with index . 1 }}
  - {{ . }}
  {{- end }}
securityContext:
  runAsUser: 0
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  # Without it the process sees no loaded programs, and could not say that none is left.
  capabilities: {drop: [ALL], add: [SYS_ADMIN]}
  seccompProfile: {type: {{ eq $root.Values.agent.seccomp "unconfined" | ternary "Unconfined" "RuntimeDefault" }}}
resources: {{- toYaml $root.Values.agent.resources | nindent 2 }}
volumeMounts:
  - {name: bpf, mountPath: /sys/fs/bpf}
  - {name: state, mountPath: /var/lib/lattice}
  - {name: sockets, mountPath: /run/lattice}
  - {name: seccomp, mountPath: /seccomp}
{{- end -}}
