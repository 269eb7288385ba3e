"""Sign-ins of unmodified Python clients, one per function. The Go test sets the environment
as `berth env` does and runs `signin.py NAME`; a failure is an exception."""

import html.parser
import os
import sys
import threading
import urllib.parse

import requests

URL = os.environ["BERTH_URL"]
TENANT = os.environ["AZURE_TENANT_ID"]
CLIENT_ID = os.environ["AZURE_CLIENT_ID"]
SECRET = os.environ["AZURE_CLIENT_SECRET"]
PERSON = {"username": os.environ["BERTH_USER"], "password": os.environ["BERTH_PASSWORD"]}
AZ = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"
LOGIN = "https://login.microsoftonline.com/"
SCOPE = "https://management.azure.com/.default"


def arm(token, caller, base="https://management.azure.com"):
    answer = requests.get(base + "/subscriptions?api-version=2022-12-01", headers={"Authorization": "Bearer " + token}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Caller"] == caller, answer.headers


PROGRAM_CALLER = "ServicePrincipal clients"
PERSON_CALLER = "User " + PERSON["username"]


class Form(html.parser.HTMLParser):
    """The form of a page: where it goes and its hidden fields."""

    def __init__(self, page):
        super().__init__()
        self.action, self.fields = None, {}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "form":
            self.action = attrs.get("action", "")
        elif tag == "input" and attrs.get("type") == "hidden":
            self.fields[attrs["name"]] = attrs["value"]


def browser(url):
    """What a person does in a browser, from opening the page to returning to the client."""
    session = requests.Session()
    page = session.get(url, timeout=30)
    assert page.status_code == 200 and "Microsoft Azure CLI" in page.text, page.text
    back = session.post(url, data=PERSON, headers={"Origin": URL, "Sec-Fetch-Site": "same-origin"}, timeout=30)
    assert back.status_code == 200, back.text
    form = Form(back.text)
    if form.action:  # response_mode=form_post
        assert requests.post(form.action, data=form.fields, timeout=30).status_code == 200


def enter_code(page, code):
    answer = requests.post(page, params={"otc": code}, data=PERSON, timeout=30)
    assert answer.status_code == 200 and "Signed in" in answer.text, answer.text


def use_fake_browser():
    import webbrowser

    def open_page(url, *_):
        threading.Thread(target=browser, args=(url,)).start()
        return True

    class Fake(webbrowser.BaseBrowser):
        def open(self, url, new=0, autoraise=True):
            return open_page(url)

    webbrowser.register("fake", None, Fake(), preferred=True)


def msal_client_secret():
    import msal

    app = msal.ConfidentialClientApplication(CLIENT_ID, authority=LOGIN + TENANT, client_credential=SECRET)
    answer = app.acquire_token_for_client([SCOPE], claims_challenge='{"access_token": {"nbf": {"essential": true, "value": "1"}}}')
    arm(answer["access_token"], PROGRAM_CALLER)
    assert app.acquire_token_for_client([SCOPE])["token_source"] == "cache"


def msal_wrong_secret():
    import msal

    answer = msal.ConfidentialClientApplication(CLIENT_ID, authority=LOGIN + TENANT, client_credential="guess").acquire_token_for_client([SCOPE])
    assert answer["error"] == "invalid_client" and answer["error_codes"] == [7000215], answer


def msal_public():
    import msal

    return msal.PublicClientApplication(AZ, authority=LOGIN + "organizations")


def msal_password_and_refresh():
    app = msal_public()
    answer = app.acquire_token_by_username_password(PERSON["username"], PERSON["password"], [SCOPE])
    arm(answer["access_token"], PERSON_CALLER)
    (account,) = app.get_accounts()
    assert account["username"] == PERSON["username"] and account["realm"] in (TENANT, "organizations"), account
    assert app.acquire_token_silent([SCOPE], account)["access_token"] == answer["access_token"]
    for _ in range(3):  # each refresh rotates the refresh token
        fresh = app.acquire_token_silent([SCOPE], account, force_refresh=True)
        assert fresh["access_token"] != answer["access_token"]
    arm(fresh["access_token"], PERSON_CALLER)
    # az asks for a tenant's token with the refresh token from organizations.
    fresh = app.acquire_token_silent(["https://graph.microsoft.com/.default"], account, authority=LOGIN + TENANT)
    assert requests.get("https://management.azure.com/subscriptions", headers={"Authorization": "Bearer " + fresh["access_token"]}, timeout=30).status_code == 401


def msal_device_code():
    app = msal_public()
    flow = app.initiate_device_flow([SCOPE])
    assert flow["user_code"] in flow["message"], flow
    enter_code(flow["verification_uri"], flow["user_code"])
    answer = app.acquire_token_by_device_flow(flow)
    arm(answer["access_token"], PERSON_CALLER)
    assert answer["id_token_claims"]["preferred_username"] == PERSON["username"]


def msal_interactive():
    use_fake_browser()
    answer = msal_public().acquire_token_interactive([SCOPE], prompt="select_account", timeout=60)
    assert "access_token" in answer, answer
    arm(answer["access_token"], PERSON_CALLER)


def azure_identity_client_secret():
    from azure.identity import EnvironmentCredential

    arm(EnvironmentCredential().get_token(SCOPE).token, PROGRAM_CALLER)


def azure_identity_device_code():
    from azure.identity import DeviceCodeCredential

    credential = DeviceCodeCredential(prompt_callback=lambda page, code, _: enter_code(page, code))
    arm(credential.get_token(SCOPE).token, PERSON_CALLER)


def azure_identity_interactive():
    from azure.identity import InteractiveBrowserCredential

    use_fake_browser()
    arm(InteractiveBrowserCredential(timeout=60).get_token(SCOPE).token, PERSON_CALLER)


def azure_identity_custom_cloud():
    from azure.identity import ClientSecretCredential

    credential = ClientSecretCredential(TENANT, CLIENT_ID, SECRET, authority=URL, disable_instance_discovery=True)
    arm(credential.get_token(URL + "/.default").token, PROGRAM_CALLER, base=URL)


def azureml_core_service_principal():
    from azureml.core.authentication import ServicePrincipalAuthentication

    auth = ServicePrincipalAuthentication(TENANT, CLIENT_ID, SECRET)
    header = auth.get_authentication_header()["Authorization"]
    arm(header.removeprefix("Bearer "), PROGRAM_CALLER)
    subscriptions, _ = auth._get_all_subscription_ids()
    assert [s.subscription_id for s in subscriptions] == [os.environ["BERTH_SUBSCRIPTION"]], subscriptions
    auth._get_graph_token()
    auth._get_azureml_client_token()


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    globals()[name](*arguments)
