#!/usr/bin/env bash
# Fetches or builds a Kubernetes API server for the tests: etcd, kube-apiserver and kubectl, laid
# out as KUBEBUILDER_ASSETS expects them. It needs neither root nor any package beyond
# vagrant/packages.txt, and writes nowhere but in DIRECTORY.
set -euo pipefail

# What the Kubernetes project publishes for tests; the sums are those of envtest-releases.yaml in
# https://github.com/kubernetes-sigs/controller-tools.
readonly ENVTEST=https://github.com/kubernetes-sigs/controller-tools/releases/download
readonly ENVTEST_VERSION=v1.34.1
declare -Ar ENVTEST_SHA512=(
  [amd64]=c5e7c237ae18a8c65d0df1214b864ecd19aa9ff4f1383dbd477c202546d778c0f74efe15750ec38f57d8de26ba17cd62f404446cdd3c975399a5d4589de35cdd
  [arm64]=bf13d2456183e66d084e28e1c9eed6a408fb77a06d8d1fd0461a7d9bc0c90b63d29ea67870b28f80d1f992acb026007d6f43987753c859c81d6a78bc1ca2c903
)

# For where only a Debian mirror can be reached: Debian 12 packages etcd and kubectl, and has the
# server in its source. Files are pinned, so that Debian 13 and Ubuntu build the same from them.
readonly SERVER_VERSION=1.20.2
readonly DEBIAN_FILES="\
b83c0780efb182d928dc63d46488a847f161f04e40a94b96bf5247dd671ecdfc k/kubernetes/kubernetes_1.20.5+really1.20.2.orig.tar.gz
087c42dc26c847740043cdaa8b16db666be5591a1da957f822922aa1b677494e k/kubernetes/kubernetes-client_1.20.5+really1.20.2-1.1+deb12u1_amd64.deb
3a9445d4560ad6de1c375756b2a17d97713df44cbd20a658c871fe108af7ef5d e/etcd/etcd-server_3.4.23-4+b4_amd64.deb
545123039b6c79e75cf2d86528781a825424cf33ce9d3f4513d772d7144cd531 g/golang-1.19/golang-1.19-go_1.19.8-2_amd64.deb
2dfa82fe4f08f4e0193c532e561af4c91871f5235608f04f2bb8d57bb288df5a g/golang-1.19/golang-1.19-src_1.19.8-2_all.deb
af150a5172cf4c19bb321a53e67103e7fb18d07c1baa1e816a235155265d3948 g/golang-github-modern-go-reflect2/golang-github-modern-go-reflect2-dev_1.0.2-2_all.deb"

# A machine without a way out is noticed at once, a download that stalls after half a minute.
readonly CURL=(curl --fail --silent --location --connect-timeout 5 --speed-time 30)

fail() {
  echo "kubernetes: $*" >&2
  exit 1
}

# works DIRECTORY: whether the three programs are there and start.
works() {
  "$1/etcd" --version && "$1/kube-apiserver" --version && "$1/kubectl" version --client
} >/dev/null 2>&1

# fetch_envtest DIRECTORY: puts upstream's programs there.
fetch_envtest() {
  local archive=$1.tar.gz sha512=${ENVTEST_SHA512[$arch]}
  "${CURL[@]}" --output "$archive" \
    "$ENVTEST/envtest-$ENVTEST_VERSION/envtest-$ENVTEST_VERSION-linux-$arch.tar.gz" &&
    sha512sum --check --status <<<"$sha512  $archive" &&
    tar --extract --gzip --file "$archive" --directory "$1" --strip-components 2 &&
    works "$1"
}

# fetch_debian SHA256 PATH: puts one file of the pool into the working directory.
fetch_debian() {
  local own mirror
  # shellcheck disable=SC2016 # apt-get replaces $(REPO_URI), not the shell.
  own=$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian' 'Created-By: Packages' |
    sort -u)
  # archive.debian.org is for the day when Debian 12 has left the others.
  for mirror in $own http://{deb,archive}.debian.org/debian; do
    "${CURL[@]}" --remote-name "${mirror%/}/pool/main/$2" &&
      sha256sum --check --status <<<"$1  ${2##*/}" && return
  done
  fail "no mirror has ${2##*/} with the SHA-256 $1"
}

# with_go COMMAND...: runs it with Debian 12's Go and nothing of the user's settings.
with_go() {
  # TMPDIR, because the linker's files are big and /tmp may be memory.
  env -i PATH="$build/usr/lib/go-1.19/bin:$PATH" HOME="$build" TMPDIR="$build" \
    GOROOT="$build/usr/lib/go-1.19" GOPATH="$build/go" GO111MODULE=off CGO_ENABLED=0 "$@"
}

# compile_server FILE: builds kube-apiserver from the source in the working directory.
compile_server() {
  local package tagged flags="-s -w"

  # The reflect2 of 2018 crashes when built with a Go as young as 1.19.
  rm -r vendor/github.com/modern-go/reflect2
  cp -r "$build/usr/share/gocode/src/github.com/modern-go/reflect2" vendor/github.com/modern-go/

  # Kubernetes' makefiles generate this package; it is not in the archive. staging/ is where
  # the links of vendor/k8s.io lead, and the packages are imported under that name.
  tagged=$(grep -rl '^// *+k8s:openapi-gen=' --include='*.go' pkg staging/src/k8s.io |
    sed 's|/[^/]*$||; s|^staging/src|vendor|; s|^|k8s.io/kubernetes/|' |
    grep -Ev 'k8s.io/(code-generator|sample-apiserver)/' | sort -u | paste -sd,)
  with_go go build -o "$build/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  with_go "$build/openapi-gen" -i "$tagged" -r "$build/openapi-violations" \
    -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
    -h hack/boilerplate/boilerplate.generatego.txt

  # Without these the server tells its clients that it is v0.0.0-master.
  for package in client-go/pkg/version component-base/version; do
    package=k8s.io/kubernetes/vendor/k8s.io/$package
    flags+=" -X $package.gitVersion=v$SERVER_VERSION"
    flags+=" -X $package.gitMajor=${SERVER_VERSION%%.*}"
    flags+=" -X $package.gitMinor=$(cut -d. -f2 <<<"$SERVER_VERSION")"
  done
  with_go go build -trimpath -ldflags "$flags" -o "$1" ./cmd/kube-apiserver
}

# build_debian DIRECTORY: puts Debian's etcd and kubectl there, and a server from its source.
build_debian() {
  local sum path package source=$build/go/src/k8s.io/kubernetes
  [[ $arch == amd64 ]] || fail "only x86-64 can build from Debian's source"
  command -v apt-get >/dev/null || fail "not Debian or Ubuntu; put the programs there by hand"

  cd "$build"
  while read -r sum path; do
    fetch_debian "$sum" "$path"
  done <<<"$DEBIAN_FILES"
  for package in *.deb; do
    # Unpacked, not installed: etcd's package would start a service.
    dpkg-deb --extract "$package" .
  done
  mkdir -p "$source"
  tar --extract --gzip --file kubernetes_*.orig.tar.gz --directory "$source" --strip-components 1

  cd "$source"
  compile_server "$1/kube-apiserver"
  mv "$build/usr/bin/etcd" "$build/usr/bin/kubectl" "$1/"
  works "$1" || fail "what was built does not start"
}

main() {
  works "$directory" && return
  mkdir -p "$directory"
  # One at a time: tests that start together would all build. The last ones find it done.
  exec {lock}<"$directory"
  flock "$lock"
  works "$directory" && return

  trap 'rm -rf "$build"' EXIT
  rm -rf "$build"
  mkdir -p "$build/programs"
  if ! fetch_envtest "$build/programs"; then
    echo "kubernetes: no envtest from github.com; building from Debian's source takes minutes"
    build_debian "$build/programs"
  fi
  mv "$build"/programs/* "$directory/"
}

(($# == 1)) || fail "usage: kubernetes.sh DIRECTORY"
directory=$(realpath --canonicalize-missing "$1")
# On the disk of the programs, so that they can be moved there in one step.
build=$directory/.build
case $(uname -m) in
  x86_64) arch=amd64 ;;
  aarch64) arch=arm64 ;;
  *) fail "there is no server for $(uname -m)" ;;
esac
main >&2
echo "$1"
