"""The entry script of the demo's web service: which wine is it, by its chemistry?"""

import json
import os
import pickle

model = None


def init():
    global model
    with open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "wine.pkl"), "rb") as f:
        model = pickle.load(f)
    print("model loaded:", model)


def run(body):
    wines = json.loads(body)["data"]
    return {"classes": model.predict(wines).tolist(), "trees": len(model.estimators_)}
