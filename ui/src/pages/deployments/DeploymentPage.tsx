import { Page } from "@/app/Page";
import { Empty } from "@/design/states";

export default function DeploymentPage() {
  return (
    <Page title="Deployment">
      <Empty title="Nothing here yet" />
    </Page>
  );
}
