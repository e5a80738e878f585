#!/usr/bin/env bash
# Does what the Dockerfile's COPY and RUN steps do, target cpu, in a scratch folder: for machines without a container
# engine. Left out: apt-get (needs root; gcc, g++ and npm must be there) and the last stage, which only copies.
# torch comes from wherever pip and uv are told to look, because its own index may be out of reach.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/../.." && pwd)
scratch=${1:-$(mktemp -d)}
export VIRTUAL_ENV=$scratch/capricious CAPRICIOUS_CACHE=$scratch/cache PATH=$scratch/capricious/bin:$PATH
export UV_FIND_LINKS="${PIP_FIND_LINKS:-}"
mkdir -p "$scratch/src/infra/docker" && cd "$scratch/src"

# Each step on one line, with the folder in place of /opt/capricious.
sed -e :a -e '/\\$/N; s/\\\n *//; ta' "$checkout/infra/docker/Dockerfile" |
    awk '/^FROM/ { stage = $NF } stage ~ /^(package|package-cpu)$/ && /^(RUN|COPY)/' |
    sed "s#/opt/capricious#$scratch/capricious#g; s# --index-url https://download.pytorch.org/whl/cpu##" |
    while read -r verb step; do
        echo "+ $verb $step"
        case "$verb $step" in
            "RUN apt-get"*) echo "  left out" ;;
            COPY*)
                read -ra names <<<"$step"
                target=${names[-1]}
                mkdir -p "$(dirname "$target")"
                for name in "${names[@]::${#names[@]}-1}"; do cp -r "$checkout/$name" "$target"; done
                ;;
            *) bash -euo pipefail -c "$step" ;;
        esac
    done
cd "$scratch"
python -c "import capricious, deepspeed, ray, torch, cv2; print(capricious.__file__, torch.__version__, ray.__version__)"
capricious weights | head -3
