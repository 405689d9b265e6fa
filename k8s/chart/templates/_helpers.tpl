{{- /* The lines of a container that say what it runs. */}}
{{- define "spillway.image" -}}
image: {{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.digest }}@{{ . }}{{ end }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}

{{- /* A container's resources. All quantities as strings: some API servers refuse `cpu: 2`. */}}
{{- define "spillway.resources" -}}
resources:
{{- range $bound, $quantities := . }}
{{- with $quantities }}
  {{ $bound }}:
  {{- range $name, $quantity := . }}
    {{ $name }}: {{ $quantity | toString | quote }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Where metrics are asked for; without an address that of the node, which may be of either family.
The argument: .Values.metrics. */}}
{{- define "spillway.listen" -}}
[{{ .address | default "$(HOST_IP)" }}]:{{ int64 .port }}
{{- end }}

{{- /* The configuration as a file. */}}
{{- define "spillway.config" -}}
# The router's configuration on every gateway. EDIT THE DEVICES: `ip route get` on a gateway node
# names the one that tunnel traffic comes in by, and the one that leads outside, if that is another.
# Gateways whose devices have different names need a DaemonSet and a configuration each.
#
# Every other option, with its default: router/config.example.yaml. runtime_dir and the sockets must stay
# as they are: the DaemonSet mounts them.
{{ toYaml .Values.config }}
{{- if include "spillway.hasReaders" . }}
# That of the containers which can do nothing but ask.
read_only_group: {{ include "spillway.readOnlyGroup" . }}
{{- end }}
{{- end }}

{{- /* Whether a container asks the router without being allowed to change anything. */}}
{{- define "spillway.hasReaders" -}}
{{- if or .Values.metrics.enabled .Values.natLog.enabled }}yes{{ end }}
{{- end }}

{{- /* What a container runs before it is told to end: `spillway drain` with these options, where the router is
drained; else what changes nothing. There is always a handler, because API servers of old (1.20) refuse an object
that one is taken out of: an empty one stays. The argument: a list of the chart and the options. */}}
{{- define "spillway.beforeEnd" -}}
{{- $words := list "--version" }}
{{- if (first .).Values.router.drainSeconds }}{{ $words = prepend (rest .) "drain" }}{{ end -}}
lifecycle:
  preStop: {exec: {command: [spillway, {{ range $index, $word := $words }}{{ if $index }}, {{ end }}{{ quote $word }}{{ end }}]}}
{{- end }}

{{- /* The number of the group that may use the read-only socket. Distributions give numbers of four
digits to people, from 1000 on: this one is far from both ends. */}}
{{- define "spillway.readOnlyGroup" -}}
9602
{{- end }}

{{- /* Helm reads numbers as floating point: 16777215 would be 1.6777215e+07. */}}
{{- define "spillway.vni" -}}
{{ if kindIs "string" . }}{{ . }}{{ else }}{{ int64 . }}{{ end }}
{{- end }}

{{- /* What makes an object part of the hook that brings the definitions: it is made before all else,
and gone when the job has succeeded. The argument is the weight: lower ones come first. */}}
{{- define "spillway.crdsHook" -}}
annotations:
  helm.sh/hook: pre-install,pre-upgrade
  helm.sh/hook-weight: {{ . | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{- /* What spillway-control is told by its environment. The argument: .Values.control. What is not
set stays as an example, for whoever reads the rendered manifest. */}}
{{- define "spillway.controlEnv" -}}
# Never translated, like the ranges of nodes and pods: the range of services, for
# instance. Several: with commas.
{{- if .clusterRanges }}
- {name: SPILLWAY_CLUSTER_RANGES, value: {{ join "," .clusterRanges | quote }}}
{{- else }}
# - {name: SPILLWAY_CLUSTER_RANGES, value: 10.96.0.0/12}
{{- end }}
# Where Spillway itself answers for an egressIP that no node has: one of the devices in
# config.yaml.
{{- if .announceOn }}
- {name: SPILLWAY_ANNOUNCE_ON, value: {{ quote .announceOn }}}
{{- else }}
# - {name: SPILLWAY_ANNOUNCE_ON, value: eth0}
{{- end }}
# Where pods with IPv6 addresses reach IPv4 destinations (NAT64): the prefix of the cluster's
# DNS64.
{{- if .nat64Prefix }}
- {name: SPILLWAY_NAT64_PREFIX, value: {{ quote .nat64Prefix }}}
{{- else }}
# - {name: SPILLWAY_NAT64_PREFIX, value: "64:ff9b::/96"}
{{- end }}
# Cilium's underlay-protocol, where nodes have addresses of both families and it is ipv6.
{{- if ne .underlayProtocol "auto" }}
- {name: SPILLWAY_UNDERLAY_PROTOCOL, value: {{ .underlayProtocol }}}
{{- else }}
# - {name: SPILLWAY_UNDERLAY_PROTOCOL, value: ipv6}
{{- end }}
# What Cilium expects in a cluster of both families.
{{- if kindIs "invalid" .replyVni }}
# - {name: SPILLWAY_REPLY_VNI, value: "9"}
{{- else }}
- {name: SPILLWAY_REPLY_VNI, value: {{ include "spillway.vni" .replyVni | quote }}}
{{- end }}
{{- if kindIs "invalid" .replyVniIpv6 }}
# - {name: SPILLWAY_REPLY_VNI_IPV6, value: "10"}
{{- else }}
- {name: SPILLWAY_REPLY_VNI_IPV6, value: {{ include "spillway.vni" .replyVniIpv6 | quote }}}
{{- end }}
# Egress addresses that are the first of their interface, and yet Spillway's alone.
{{- if .ownAddresses }}
- {name: SPILLWAY_OWN_ADDRESSES, value: {{ join "," .ownAddresses | quote }}}
{{- else }}
# - {name: SPILLWAY_OWN_ADDRESSES, value: 192.0.2.10}
{{- end }}
{{- with .ownPods }}
# The tunnel of the gateway's own pods.
- {name: SPILLWAY_OWN_PODS, value: {{ toJson . | quote }}}
{{- end }}
{{- with .log }}
- {name: RUST_LOG, value: {{ quote . }}}
{{- end }}
{{- end }}

{{- /* What no schema can say: the control plane's devices are the router's. */}}
{{- define "spillway.checkDevices" -}}
{{- $devices := list }}
{{- range .Values.config.devices }}{{ $devices = append $devices .name }}{{ end }}
{{- $named := dict "announceOn" .Values.control.announceOn }}
{{- range $index, $peer := .Values.control.ownPods.peers }}
{{- $named = set $named (printf "ownPods.peers[%d].device" $index) $peer.device }}
{{- end }}
{{- range $field, $device := $named }}
{{- if and $device (not (has $device $devices)) }}
{{- $known := join ", " $devices }}
{{- fail (printf "control.%s: %s is no device of config.devices, which has %s" $field $device $known) }}
{{- end }}
{{- end }}
{{- end }}
