import { Page } from "@/app/Page";
import { Empty } from "@/design/states";

export default function DeploymentsPage() {
  return (
    <Page title="Deployments">
      <Empty title="Nothing here yet" />
    </Page>
  );
}
