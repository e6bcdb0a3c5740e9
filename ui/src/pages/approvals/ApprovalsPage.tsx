import { Page } from "@/app/Page";
import { Empty } from "@/design/states";

export default function ApprovalsPage() {
  return (
    <Page title="Approvals">
      <Empty title="Nothing here yet" />
    </Page>
  );
}
