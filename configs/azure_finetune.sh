#!/usr/bin/env bash
# Submits azure_finetune.yaml to an Azure ML workspace, or runs it here with the same parameters:
#   bash configs/azure_finetune.sh SUBSCRIPTION RESOURCE_GROUP WORKSPACE [--set inputs.number_of_epochs=5 ...]
#   bash configs/azure_finetune.sh local --training_data DIR --validation_data DIR --mlflow_model_folder OUT ...
# Not run against Azure itself here: that needs a workspace.
set -euo pipefail
job="$(dirname "${BASH_SOURCE[0]}")/azure_finetune.yaml"
if [ "${1:-}" = local ]; then
    shift
    exec "${PYTHON:-python}" -m deformable_detr_refine.training.azure "$job" "$@"
fi
[ $# -ge 3 ] || { sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}"; exit 2; }
subscription=$1 group=$2 workspace=$3
shift 3
az ml job create --file "$job" --subscription "$subscription" --resource-group "$group" --workspace-name "$workspace" "$@"
