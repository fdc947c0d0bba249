#!/usr/bin/env bash
# Registers a model folder, deploys it to a batch endpoint of Azure ML, and runs it over a folder of images or a CSV.
#   SUBSCRIPTION=... RESOURCE_GROUP=... WORKSPACE=... ./deploy-batch.sh MODEL_FOLDER INPUT
# Needs git and the Azure CLI with its ml extension, logged in. INPUT is a folder of images, a table with a column of
# images (CSV with a header, Parquet), or a folder of such tables. The result is the job's predictions.csv.
set -euo pipefail

: "${SUBSCRIPTION:?the Azure subscription}" "${RESOURCE_GROUP:?its resource group}" "${WORKSPACE:?the workspace}"
model_folder=$(realpath "${1:?a model folder}") input=$(realpath "${2:?a folder of images or a table}")
name=${MODEL_NAME:-detector}
endpoint=${ENDPOINT:-$name-batch-$(date +%s)}
compute=${COMPUTE:-cpu-cluster}
compute_size=${COMPUTE_SIZE:-Standard_DS3_v2}

cd "$(dirname "$0")"
[ -f "$model_folder/config.json" ] || { echo "$model_folder is no model folder: it has no config.json" >&2; exit 2; }
az account set --subscription "$SUBSCRIPTION"
workspace=(--resource-group "$RESOURCE_GROUP" --workspace-name "$WORKSPACE")

# The package as it is committed goes into the image.
git -C ../.. archive --format=tar.gz --prefix=deformable-detr-refine/ --output="$PWD/image/source.tar.gz" HEAD

if ! az ml compute show "${workspace[@]}" --name "$compute" > /dev/null 2>&1; then
  az ml compute create "${workspace[@]}" --name "$compute" --type amlcompute --size "$compute_size" \
    --min-instances 0 --max-instances 2
fi
version=$(az ml model create "${workspace[@]}" --name "$name" --type custom_model --path "$model_folder" \
  --query version --output tsv)
az ml batch-endpoint create "${workspace[@]}" --name "$endpoint"
az ml batch-deployment create "${workspace[@]}" --file deploy-batch.yaml --set-default \
  --set endpoint_name="$endpoint" model="azureml:$name:$version" compute="azureml:$compute"

if [ -d "$input" ]; then input_type=uri_folder; else input_type=uri_file; fi
job=$(az ml batch-endpoint invoke "${workspace[@]}" --name "$endpoint" --input "$input" --input-type "$input_type" \
  --query name --output tsv)
az ml job stream "${workspace[@]}" --name "$job"
az ml job download "${workspace[@]}" --name "$job" --output-name score --download-path .
echo "The endpoint is $endpoint, the job $job; its predictions.csv is below $PWD/named-outputs."
