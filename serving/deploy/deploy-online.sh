#!/usr/bin/env bash
# Registers a model folder, deploys it to a real-time endpoint of Azure ML, and asks it about a photo.
#   SUBSCRIPTION=... RESOURCE_GROUP=... WORKSPACE=... ./deploy-online.sh MODEL_FOLDER PHOTO
# Needs git and the Azure CLI with its ml extension, logged in. The endpoint stays, and costs, until it is deleted:
#   az ml online-endpoint delete --name ENDPOINT --yes
set -euo pipefail

: "${SUBSCRIPTION:?the Azure subscription}" "${RESOURCE_GROUP:?its resource group}" "${WORKSPACE:?the workspace}"
model_folder=$(realpath "${1:?a model folder}") photo=$(realpath "${2:?a photo}")
name=${MODEL_NAME:-detector}
endpoint=${ENDPOINT:-$name-$(date +%s)}
instance_type=${INSTANCE_TYPE:-Standard_DS3_v2}

cd "$(dirname "$0")"
[ -f "$model_folder/config.json" ] || { echo "$model_folder is no model folder: it has no config.json" >&2; exit 2; }
az account set --subscription "$SUBSCRIPTION"
workspace=(--resource-group "$RESOURCE_GROUP" --workspace-name "$WORKSPACE")

# The package as it is committed goes into the image.
git -C ../.. archive --format=tar.gz --prefix=deformable-detr-refine/ --output="$PWD/image/source.tar.gz" HEAD

version=$(az ml model create "${workspace[@]}" --name "$name" --type custom_model --path "$model_folder" \
  --query version --output tsv)
az ml online-endpoint create "${workspace[@]}" --name "$endpoint" --auth-mode key
az ml online-deployment create "${workspace[@]}" --file deploy-online.yaml --all-traffic \
  --set endpoint_name="$endpoint" model="azureml:$name:$version" instance_type="$instance_type"

request=$(mktemp)
trap 'rm -f "$request"' EXIT
printf '{"input_data": {"columns": ["image"], "index": [0], "data": ["%s"]}}' "$(base64 < "$photo" | tr -d '\n')" \
  > "$request"
az ml online-endpoint invoke "${workspace[@]}" --name "$endpoint" --request-file "$request"
echo "The endpoint is $endpoint."
