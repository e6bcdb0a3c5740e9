import { Page } from "@/app/Page";
import { Empty } from "@/design/states";

export default function ServicePage() {
  return (
    <Page title="Service">
      <Empty title="Nothing here yet" />
    </Page>
  );
}
